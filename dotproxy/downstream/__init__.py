"""
The server side: datagrams and streams of plain DNS, as octets, in batches.
"""
