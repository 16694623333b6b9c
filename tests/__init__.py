"""The tests, and the doubles they share."""
