"""The report in five steps; files are read, nothing is trained, attacked or downloaded.

``aggregate.py`` reads the records below some folders and puts the runs of one configuration
together; ``tables.py``, ``leaderboard.py`` and ``figures/`` turn the results on a data set into
parts; ``page.py`` makes one page of them that says where each number came from; ``tabular.py``
writes the tables as LaTeX and CSV too.
"""
