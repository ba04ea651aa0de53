"""What the operations of a store are made of: bodies taken in, changes committed, pages listed, payloads read.

Here, and in `removal`, rows and files meet; the order in which they do keeps what storage promises.
"""
