"""What removes: garbage collection, purges, retention, the end of history, and what has to hold before any of them may.

`soundness` and `clock_guard` are asked first. Payloads go only under write.lock, after the rows that let them go.
"""
