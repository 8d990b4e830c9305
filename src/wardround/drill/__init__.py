"""The drill: faults put into a rehearsal on purpose, and what the watch makes of them. Is it seen, how soon, who is named?"""
