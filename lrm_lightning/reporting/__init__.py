"""The report in five steps; files are read, nothing is trained, attacked or downloaded.

``aggregate.py`` reads the records below some folders (step 1) and puts the runs of one
configuration together (2); ``tables.py`` and ``leaderboard.py`` (3) and ``figures/`` (4) turn the
results on a data set into parts; ``page.py`` makes one page of them that says where each number
came from, and ``tabular.py`` writes the tables as LaTeX and CSV too (5).
"""
