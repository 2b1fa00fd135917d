"""Tables of runs: what one asks for, found and ordered by the database.

query     the text of a query, as a tree
fields    what every run has: state, project, times…
columns   what a table shows and sorts by: those fields, config keys, metrics
match     the tree as a condition of the database
order     a column as an order of the database
groups    runs of one value together, with mean and deviation
values    the cells of the runs of one page
tags      tags as they are typed
"""
