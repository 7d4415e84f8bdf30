"""The report is a function of the run folder alone: it trains nothing, imports no jax, and can be repeated at any time.

`write` leaves report.html (one file, opens offline), report.md, summary.csv (the same as tables/arms.csv), tables/ and
figures/ in the folder; `print_answer` prints the answer in a terminal.
"""

from experiments.report.answer import print_answer as print_answer
from experiments.report.pages import write as write
