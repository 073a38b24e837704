// Reads a Modelfile as Ollama reads it and renders its TEMPLATE with the real engine, Go's text/template.
//
// It stands in for Ollama's server up to the prompt: the values it passes are those that the server passes to a template
// (read off its source, main of 2026-08-21: parser, server/prompt.go, template, thinking). Everything here is written anew
// and knows nothing about models or tokens.
//
// Standard input:  {"modelfile": "...", "chats": [{"messages": [{"role", "content", "thinking"}], "think": true|false|null}]}
// Standard output: {"error": "...", "commands": [{"name", "args"}], "open": "...", "close": "...", "variables": [...],
//
//	"prompts": [...]}
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode"
)

type command struct {
	Name string `json:"name"`
	Args string `json:"args"`
}

type message struct {
	Role     string `json:"role"`
	Content  string `json:"content"`
	Thinking string `json:"thinking"`
}

type chat struct {
	Messages []message `json:"messages"`
	Think    *bool     `json:"think"`
}

type result struct {
	Error     string    `json:"error"`
	Commands  []command `json:"commands"`
	Open      string    `json:"open"`
	Close     string    `json:"close"`
	Variables []string  `json:"variables"`
	Prompts   []string  `json:"prompts"`
}

// read gives the commands of a Modelfile. A value runs to the end of its line, or, once it has begun with a quote (or
// three), to the first end of a line at which it also ends so. There is no escape, and what is not printable is dropped.
func read(text string) ([]command, error) {
	var found []command
	lines := strings.Split(text, "\n")
	for at := 0; at < len(lines); at++ {
		line := strings.TrimSpace(lines[at])
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, given := strings.Cut(line, " ")
		name = strings.ToLower(name)
		if !given || !strings.Contains(" from license template system adapter parameter message ", " "+name+" ") {
			return nil, fmt.Errorf("line %d: no command: %q", at+1, line)
		}
		role := ""
		if name == "parameter" || name == "message" {
			role, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
		}
		if name == "message" && role != "system" && role != "user" && role != "assistant" {
			return nil, fmt.Errorf("line %d: no role: %q", at+1, role)
		}
		value, done := unquoted(rest)
		for !done {
			if at++; at == len(lines) {
				return nil, fmt.Errorf("the value of %s never ends", name)
			}
			rest += "\n" + lines[at]
			value, done = unquoted(rest)
		}
		if name == "message" {
			value = role + ": " + value
		} else if name == "parameter" {
			name = role
		}
		found = append(found, command{name, printable(value)})
	}
	return found, nil
}

func unquoted(value string) (string, bool) {
	value = strings.TrimSpace(value)
	for _, mark := range []string{`"""`, `"`} {
		if strings.HasPrefix(value, mark) {
			if len(value) >= 2*len(mark) && strings.HasSuffix(value, mark) {
				return value[len(mark) : len(value)-len(mark)], true
			}
			return "", false
		}
	}
	return value, true
}

func printable(value string) string {
	return strings.Map(func(char rune) rune {
		if char == '\n' || char == '\r' || char == '\t' || strconv.IsPrint(char) {
			return char
		}
		return -1
	}, value)
}

// merged puts neighbours of one role together, as Ollama does before a template sees them, and gives all system messages.
func merged(messages []message) (string, []message) {
	var system []string
	var out []message
	for _, one := range messages {
		if one.Role == "system" {
			system = append(system, one.Content)
		}
		if last := len(out) - 1; last >= 0 && out[last].Role == one.Role && one.Role != "tool" {
			out[last].Content += "\n\n" + one.Content
			continue
		}
		out = append(out, one)
	}
	return strings.Join(system, "\n\n"), out
}

// tags looks for .Thinking under a range over .Messages: the texts that begin and end the list of nodes around it.
func tags(node parse.Node, list *parse.ListNode, inRange bool) (open, closing string) {
	take := func(child parse.Node, list *parse.ListNode, inRange bool) {
		if o, c := tags(child, list, inRange); o != "" || c != "" {
			if o != "" {
				open = o
			}
			if c != "" {
				closing = c
			}
		}
	}
	branch := func(b *parse.BranchNode, inRange bool) {
		take(b.Pipe, list, inRange)
		take(b.List, b.List, inRange)
		if b.ElseList != nil {
			take(b.ElseList, b.ElseList, inRange)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			take(child, n, inRange)
		}
	case *parse.IfNode:
		branch(&n.BranchNode, inRange)
	case *parse.WithNode:
		branch(&n.BranchNode, inRange)
	case *parse.RangeNode:
		branch(&n.BranchNode, strings.Contains(n.Pipe.String(), ".Messages"))
	case *parse.ActionNode:
		take(n.Pipe, list, inRange)
	case *parse.PipeNode:
		for _, cmd := range n.Cmds {
			for _, arg := range cmd.Args {
				take(arg, list, inRange)
			}
		}
	case *parse.FieldNode:
		if n.Ident[0] == "Thinking" && inRange && len(list.Nodes) > 0 {
			return text(list.Nodes[0]), text(list.Nodes[len(list.Nodes)-1])
		}
	}
	return open, closing
}

func text(node parse.Node) string {
	if found, ok := node.(*parse.TextNode); ok {
		return strings.TrimSpace(string(found.Text))
	}
	return ""
}

// variables names the top-level fields a template uses, in small letters: Ollama reads a model's capabilities off them.
func variables(source string) []string {
	set := map[string]bool{}
	for _, part := range strings.FieldsFunc(source, func(char rune) bool {
		return !(char == '.' || char == '$' || unicode.IsLetter(char))
	}) {
		if _, field, ok := strings.Cut(part, "."); ok && field != "" {
			set[strings.ToLower(field)] = true
		}
	}
	var found []string
	for name := range set {
		found = append(found, name)
	}
	sort.Strings(found)
	return found
}

func render(commands []command, chats []chat) (out result, err error) {
	out.Commands = commands
	var source, system string
	var examples []message
	for _, one := range commands {
		switch one.Name {
		case "template":
			source = one.Args
		case "system":
			system = one.Args
		case "message":
			role, content, _ := strings.Cut(one.Args, ": ")
			examples = append(examples, message{Role: role, Content: content})
		}
	}
	tmpl, err := template.New("").Option("missingkey=zero").Parse(source)
	if err != nil {
		return out, err
	}
	out.Open, out.Close = tags(tmpl.Root, tmpl.Root, false)
	out.Variables = variables(source)
	for _, one := range chats {
		prompt, err := prompt(tmpl, system, examples, one, out.Open != "" && out.Close != "")
		if err != nil {
			return out, err
		}
		out.Prompts = append(out.Prompts, prompt)
	}
	return out, nil
}

// prompt does what the chat route does: the model's messages first, its system prompt where the client sent none, and
// thinking switched on where a model can think and the client said nothing.
func prompt(tmpl *template.Template, system string, examples []message, one chat, thinks bool) (string, error) {
	messages := append(append([]message{}, examples...), one.Messages...)
	if len(one.Messages) > 0 && one.Messages[0].Role != "system" && system != "" {
		messages = append([]message{{Role: "system", Content: system}}, messages...)
	}
	think, set := false, one.Think != nil
	if set {
		think = *one.Think
	} else if thinks {
		think, set = true, true
	}
	all, rest := merged(messages)
	pointers := make([]*message, len(rest))
	for at := range rest {
		pointers[at] = &rest[at]
	}
	var out strings.Builder
	err := tmpl.Execute(&out, map[string]any{
		"System": all, "Messages": pointers, "Tools": nil, "Response": "",
		"Think": think, "ThinkLevel": "", "IsThinkSet": set,
	})
	return out.String(), err
}

func main() {
	var given struct {
		Modelfile string `json:"modelfile"`
		Chats     []chat `json:"chats"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	commands, err := read(given.Modelfile)
	var out result
	if err == nil {
		out, err = render(commands, given.Chats)
	}
	if err != nil {
		out.Error = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
