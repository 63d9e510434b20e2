"""Runs an audit: plans shards, finds the missing ones, hands them to an engine, keeps their totals."""
