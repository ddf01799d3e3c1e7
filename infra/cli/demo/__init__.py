"""`meterline demo`: real requests through the real stack to invoices, proven against the trace alone."""
