"""Where a policy talks to customers who are not real: the protocol, its loader, the shop and
the tutor."""
