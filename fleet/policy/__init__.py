"""When Bramble re-images a node without being asked, and why it does not: pure judgement, and the desk that
acts on it."""
