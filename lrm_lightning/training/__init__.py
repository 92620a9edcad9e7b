"""One run: build it, fit, test, record; its callbacks, and what several processes need."""
