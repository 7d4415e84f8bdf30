"""Draws a run as pages, tables and figures. The report depends on the run folder alone; this room imports no jax.

`write` adds report.html (one file, opens offline), report.md, summary.csv (the same as tables/arms.csv), tables/ and
figures/ to the folder. `print_answer` prints the answer in a terminal.
"""

from experiments.report.answer import print_answer as print_answer
from experiments.report.pages import write as write
