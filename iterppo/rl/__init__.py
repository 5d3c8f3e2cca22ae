"""The mathematics: pure functions on numbers and tensors."""
