module pushback/go_template

go 1.22
