"""ADM-v2's streams by hand."""


class Schedule:
    """Which streams there are, told step by step as the paper's algorithm tells it, for one row."""

    def __init__(self, m, num_streams, history):
        self.m, self.num_streams = m, num_streams
        begun = min(history, num_streams - 1)
        self.ages = list(range(begun, 0, -1))  # actions read by each stream, oldest first
        self.counter = 0

    def step(self):
        """A new stream begins if it is due, all read an action; gives their ages, newest first."""
        if self.counter == 0 or (self.counter + self.num_streams - 1) % self.m < self.num_streams:
            self.ages = [*self.ages, 0][-self.num_streams :]
        self.counter += 1
        self.ages = [age + 1 for age in self.ages]
        return self.ages[::-1]
