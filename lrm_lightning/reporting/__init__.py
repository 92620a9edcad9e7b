"""The report in five steps; files are read, nothing is trained, attacked or downloaded.

``load.py`` reads the records below some folders; ``aggregate.py`` puts the runs of one
configuration together; ``tables.py`` and ``figures/`` turn the results on a data set into parts;
``document.py`` and ``page.py`` make one page of them that says where each number came from;
``tabular.py`` writes the tables as LaTeX and CSV too.
"""
