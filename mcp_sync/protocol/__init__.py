"""The protocol, pure: data in, data out. No I/O, no threads, no clock, no logging."""
