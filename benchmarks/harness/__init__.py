"""The benchmark harness: `run.py` is its command line.

`cases` says what is measured and `loops` on what; `measure` runs one measurement in processes of its own;
`session` runs all of them interleaved; `results` sums the rounds up; `table`, `plot` and `goals` show them.
"""
