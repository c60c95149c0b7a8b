"""The agent's decisions: pure, synchronous, without I/O, clocks or protos.

`saga` and `recovery` hold the tables, `admission` classifies commands, `steps` says what
each state does on entry, `history` folds journal records, `timing` reads marks.
runtime/runner.py performs what these decide.
"""
