"""What a user sees of an error."""

import nbformat
from nbclient import NotebookClient


def test_a_cell_shows_the_message_and_no_traceback():
    cell = nbformat.v4.new_code_cell("from pushback_lib.model.recipe import recipe_for\n\nrecipe_for('huge')")
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), allow_errors=True).execute()
    (output,) = cell.outputs
    assert (output.output_type, output.ename) == ("error", "PushbackError")
    assert len(output.traceback) == 1
    assert "No model called 'huge'. Choose one of: tiny, english, 1.5b" in output.traceback[0]
