-- A failed refund is tried again as a new one, under a key of its own: once each, so that nothing goes back twice.
ALTER TABLE refunds ADD COLUMN retry_of text UNIQUE REFERENCES refunds;

-- What a provider told of a payment beside its outcome: a dispute, or a refund that was made there. Told on once.
CREATE TABLE payment_notices (
    payment_id text NOT NULL REFERENCES payments,
    reference  text NOT NULL, -- the provider's name of the dispute or the refund
    told_at    timestamptz NOT NULL,
    PRIMARY KEY (payment_id, reference)
);
