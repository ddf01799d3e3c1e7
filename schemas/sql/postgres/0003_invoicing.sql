-- Invoices as people know them: drafts, taxes, due dates, payments, credit notes. Money is bigint minor units.

-- A rate may change or be put away; what was issued by it keeps a copy.
CREATE TABLE tax_rates (
    id          text PRIMARY KEY,
    tenant_id   text NOT NULL REFERENCES tenants,
    key         text NOT NULL,
    name        text NOT NULL,
    percent     numeric NOT NULL CHECK (percent >= 0),
    inclusive   boolean NOT NULL,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL,
    archived_at timestamptz,
    UNIQUE (tenant_id, key)
);

ALTER TABLE customers
    ADD COLUMN tax_rate_ids text[] NOT NULL DEFAULT '{}', -- of tax_rates, in the order in which invoices show them
    ADD COLUMN tax_id  text,                              -- e.g. a VAT number
    ADD COLUMN address jsonb,                             -- {line1, line2, postal_code, city, state, country}
    ADD COLUMN locale  text;                              -- of documents; null: the tenant's

ALTER TABLE invoices
    ADD COLUMN taxes     jsonb NOT NULL DEFAULT '[]', -- [{key, name, percent, inclusive, base, amount}] as they were
    ADD COLUMN discounts jsonb NOT NULL DEFAULT '[]', -- the invoice's own: [{percent | amount, …, taken}]
    ADD COLUMN terms     jsonb,                       -- of a one-off draft: what it was made of, to be changed
    ADD COLUMN parties   jsonb,                       -- seller and buyer as they were at finalization
    ADD COLUMN added_tax_minor bigint NOT NULL DEFAULT 0, -- the exclusive part of tax_minor
    ADD COLUMN adjusted_minor  bigint NOT NULL DEFAULT 0, -- what credit notes took off amount_due
    ADD COLUMN credited_minor  bigint NOT NULL DEFAULT 0, -- all credit notes
    ADD COLUMN refunded_minor  bigint NOT NULL DEFAULT 0, -- those that say that money goes back
    ADD COLUMN draft_until timestamptz, -- when a draft is finalized by itself; null: never
    ADD COLUMN due_at      timestamptz,
    ADD COLUMN paid_at     timestamptz,
    ADD COLUMN voided_at   timestamptz,
    ADD COLUMN uncollectible_at timestamptz,
    ADD CONSTRAINT invoices_total CHECK (total_minor = subtotal_minor - discount_minor + added_tax_minor),
    ADD CONSTRAINT invoices_due
        CHECK (amount_due_minor = greatest(total_minor, 0) - credits_applied_minor - adjusted_minor),
    ADD CONSTRAINT invoices_applied CHECK (credits_applied_minor >= 0 AND adjusted_minor >= 0),
    ADD CONSTRAINT invoices_paid CHECK (amount_paid_minor BETWEEN 0 AND amount_due_minor),
    ADD CONSTRAINT invoices_credited CHECK (credited_minor BETWEEN adjusted_minor AND greatest(total_minor, 0)),
    ADD CONSTRAINT invoices_refunded CHECK (refunded_minor BETWEEN 0 AND amount_paid_minor),
    ADD CONSTRAINT invoices_status CHECK (CASE status
        WHEN 'paid' THEN amount_paid_minor = amount_due_minor
        WHEN 'void' THEN amount_paid_minor = 0 AND credited_minor = 0
        ELSE status = 'draft' OR amount_paid_minor < amount_due_minor END),
    ADD CONSTRAINT invoices_finalized CHECK ((status = 'draft') = (finalized_at IS NULL));
CREATE INDEX invoices_drafts ON invoices (draft_until, id) WHERE status = 'draft' AND draft_until IS NOT NULL;

-- A final invoice never changes: only its payments, its credit notes and its status move on.
CREATE FUNCTION keep_final_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'invoice % is final', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    IF NEW.status = 'draft'
       OR ROW (NEW.id, NEW.tenant_id, NEW.customer_id, NEW.subscription_id, NEW.kind, NEW.number, NEW.currency,
               NEW.period_start, NEW.period_end, NEW.subtotal_minor, NEW.discount_minor, NEW.tax_minor,
               NEW.added_tax_minor, NEW.total_minor, NEW.credits_applied_minor, NEW.taxes, NEW.discounts, NEW.parties,
               NEW.finalized_at, NEW.due_at)
       IS DISTINCT FROM
          ROW (OLD.id, OLD.tenant_id, OLD.customer_id, OLD.subscription_id, OLD.kind, OLD.number, OLD.currency,
               OLD.period_start, OLD.period_end, OLD.subtotal_minor, OLD.discount_minor, OLD.tax_minor,
               OLD.added_tax_minor, OLD.total_minor, OLD.credits_applied_minor, OLD.taxes, OLD.discounts, OLD.parties,
               OLD.finalized_at, OLD.due_at)
    THEN
        RAISE EXCEPTION 'invoice % is final', OLD.id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER invoices_stay_final BEFORE UPDATE OR DELETE ON invoices
    FOR EACH ROW WHEN (OLD.status <> 'draft') EXECUTE FUNCTION keep_final_invoice();

CREATE FUNCTION keep_final_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM invoices WHERE id = OLD.invoice_id AND status <> 'draft') THEN
        RAISE EXCEPTION 'invoice % is final', OLD.invoice_id USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER invoice_lines_stay_final BEFORE UPDATE OR DELETE ON invoice_lines
    FOR EACH ROW EXECUTE FUNCTION keep_final_line();

-- Money that came in, or is on its way. amount_paid of an invoice is the sum of its succeeded payments.
CREATE TABLE payments (
    id           text PRIMARY KEY,
    tenant_id    text NOT NULL REFERENCES tenants,
    invoice_id   text NOT NULL REFERENCES invoices,
    customer_id  text NOT NULL REFERENCES customers,
    currency     text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    provider     text NOT NULL,
    reference    text, -- the provider's own name of it, or a person's
    status       text NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    failure_code text,
    metadata     jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    succeeded_at timestamptz,
    CHECK ((status = 'succeeded') = (succeeded_at IS NOT NULL)),
    UNIQUE (invoice_id, provider, reference)
);
CREATE INDEX payments_by_tenant ON payments (tenant_id, id);

CREATE TABLE credit_note_sequences (
    tenant_id   text PRIMARY KEY REFERENCES tenants,
    next_number bigint NOT NULL DEFAULT 1
);

-- What is taken back of a final invoice. It is final itself from the start.
CREATE TABLE credit_notes (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES tenants,
    invoice_id     text NOT NULL REFERENCES invoices,
    customer_id    text NOT NULL REFERENCES customers,
    number         text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('adjustment', 'refund')),
    currency       text NOT NULL,
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0), -- with tax
    tax_minor      bigint NOT NULL CHECK (tax_minor BETWEEN 0 AND amount_minor),
    adjusted_minor bigint NOT NULL CHECK (adjusted_minor >= 0), -- taken off what was still due
    credit_minor   bigint NOT NULL CHECK (credit_minor >= 0),   -- given to the customer's balance of credit
    refund_minor   bigint NOT NULL CHECK (refund_minor >= 0),   -- to be paid back
    taxes          jsonb NOT NULL, -- [{key, name, percent, inclusive, amount}]
    reason         text,
    metadata       jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL,
    UNIQUE (tenant_id, number),
    CHECK (amount_minor = adjusted_minor + credit_minor + refund_minor)
);
CREATE INDEX credit_notes_by_tenant ON credit_notes (tenant_id, id);
CREATE INDEX credit_notes_by_invoice ON credit_notes (invoice_id);

CREATE TABLE credit_note_lines (
    credit_note_id text NOT NULL REFERENCES credit_notes,
    invoice_id     text NOT NULL,
    position       integer NOT NULL,
    amount_minor   bigint NOT NULL CHECK (amount_minor >= 0), -- of the line's own amount
    total_minor    bigint NOT NULL CHECK (total_minor >= 0),  -- of the invoice's total: after discounts, with tax
    PRIMARY KEY (credit_note_id, position),
    FOREIGN KEY (invoice_id, position) REFERENCES invoice_lines
);
CREATE INDEX credit_note_lines_by_line ON credit_note_lines (invoice_id, position);

-- An invoice may give and take more than once: at its finalization, when it is voided, by its credit notes.
ALTER TABLE customer_credits
    DROP CONSTRAINT customer_credits_pkey,
    ADD COLUMN no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN reason text NOT NULL DEFAULT 'invoice' CHECK (reason IN ('invoice', 'void', 'credit_note')),
    ADD COLUMN credit_note_id text UNIQUE REFERENCES credit_notes,
    ADD CHECK ((reason = 'credit_note') = (credit_note_id IS NOT NULL));
CREATE UNIQUE INDEX customer_credits_by_invoice ON customer_credits (invoice_id, reason) WHERE reason <> 'credit_note';
