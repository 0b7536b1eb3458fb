"""From what the adapters yield to the plan of every dataset: states, splits, leakage rules, order, shards."""
