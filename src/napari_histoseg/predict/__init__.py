"""The run engine: slide and method in, events and a stored result out."""
