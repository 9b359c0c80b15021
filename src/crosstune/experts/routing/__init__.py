"""Who answers a token: the analytic `prefix` router or a `learned` one with its `terms`, and `passes`, which asks them before each block."""
