"""Experts: adapters that are born when something new arrives, and routers that mix them for each token."""
