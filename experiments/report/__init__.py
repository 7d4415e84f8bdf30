"""Draws a run as pages, tables and figures. The report depends on the run folder alone; this room imports no jax.

`write` adds report.html (one file, opens offline), report.md, summary.csv (the same as tables/arms.csv), tables/ and
figures/ to the folder. `print_answer` prints the answer in a terminal. `listing` and `side_by_side` are tables about
several runs.
"""

from experiments.report.answer import print_answer as print_answer
from experiments.report.answer import print_table as print_table
from experiments.report.overview import listing as listing
from experiments.report.overview import side_by_side as side_by_side
from experiments.report.pages import write as write
