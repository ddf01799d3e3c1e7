-- The subscriptions that billing passes by, to be listed however many others there are.
CREATE INDEX subscriptions_parked ON subscriptions (tenant_id, id) WHERE parked_reason IS NOT NULL;
