"""What must hold of money across rows: one query a rule, asked about what is new and, daily, about everything."""
