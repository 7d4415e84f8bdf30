"""Quotes the published results in the pages and in the docstrings of the configs, so that nobody copies a number.

    python -m experiments.quoting      or: make quote

runs        published runs, and those that are still by the former procedure
words       how one number, interval or verdict is written
tables      blocks of Markdown: the placements, the questions, the runs, the speed of the engines
measured    blocks of Markdown: what benchmarks found
changes     blocks of Markdown: what became of the verdicts of the former procedure
docstrings  the block of a config's docstring that begins with "Result ("
pages       finds the blocks and replaces them
"""
