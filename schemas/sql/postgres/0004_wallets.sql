-- Wallets: money promised to customers, in a ledger of double entries that nobody edits.

-- A customer has one wallet a currency. `is_opened` false: credit of an invoice made it, nobody has asked for it.
-- The two sums are kept by the ledger's trigger alone; the balance is what grants have left less the overdraft.
CREATE TABLE wallets (
    id            text PRIMARY KEY,
    tenant_id     text NOT NULL REFERENCES tenants,
    customer_id   text NOT NULL REFERENCES customers,
    currency      text NOT NULL,
    test_clock_id text, -- its customer's
    name          text NOT NULL,
    is_opened     boolean NOT NULL,
    allow_negative  boolean NOT NULL DEFAULT false,
    granted_minor   bigint NOT NULL DEFAULT 0 CHECK (granted_minor >= 0), -- the sum of its grants' balances
    overdraft_minor bigint NOT NULL DEFAULT 0 CHECK (overdraft_minor >= 0),
    low_balance_minor bigint, -- a balance below it is low
    is_low        boolean NOT NULL DEFAULT false,
    auto_top_up   jsonb,      -- {threshold_minor, amount_minor | target_minor, cool_off_seconds, monthly_cap_minor}
    due_at        timestamptz, -- when something happens in it by itself; null: nothing will
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL,
    UNIQUE (customer_id, currency)
);
CREATE INDEX wallets_by_tenant ON wallets (tenant_id, id);
CREATE INDEX wallets_due ON wallets (due_at, id) WHERE due_at IS NOT NULL AND test_clock_id IS NULL;
CREATE INDEX wallets_due_by_clock ON wallets (test_clock_id, due_at, id)
    WHERE due_at IS NOT NULL AND test_clock_id IS NOT NULL;

-- A grant waits (`unpaid`: for the payment of its top-up; `scheduled`: for its start), gives (`active`) or is over. The
-- sums are the ledger's; `refilled_until` is the last instant up to which its refills are done.
CREATE TABLE wallet_grants (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL REFERENCES tenants,
    wallet_id      text NOT NULL REFERENCES wallets,
    kind           text NOT NULL CHECK (kind IN ('paid', 'promotional', 'credit')),
    name           text,
    amount_minor   bigint NOT NULL CHECK (amount_minor > 0),
    priority       integer NOT NULL,
    effective_at   timestamptz NOT NULL,
    expires_at     timestamptz,
    every          text,
    anchor         timestamptz,
    rollover_min_minor bigint NOT NULL DEFAULT 0 CHECK (rollover_min_minor >= 0),
    rollover_max_minor bigint NOT NULL DEFAULT 0 CHECK (rollover_max_minor >= 0),
    status         text NOT NULL CHECK (status IN ('unpaid', 'scheduled', 'active', 'expired', 'voided')),
    refilled_until timestamptz,
    invoice_id     text REFERENCES invoices, -- that sold it, or that gave it
    credit_note_id text UNIQUE REFERENCES credit_notes,
    is_automatic   boolean NOT NULL DEFAULT false, -- an automatic top-up
    granted_minor  bigint NOT NULL DEFAULT 0,
    burned_minor   bigint NOT NULL DEFAULT 0,
    expired_minor  bigint NOT NULL DEFAULT 0,
    balance_minor  bigint NOT NULL DEFAULT 0,
    metadata       jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL,
    voided_at      timestamptz,
    CHECK (expires_at > effective_at),
    CHECK ((every IS NULL) = (anchor IS NULL)),
    CHECK ((status = 'voided') = (voided_at IS NOT NULL)),
    CHECK (balance_minor >= 0 AND burned_minor >= 0 AND expired_minor >= 0),
    CHECK (granted_minor = burned_minor + balance_minor + expired_minor)
);
CREATE INDEX wallet_grants_by_wallet ON wallet_grants (wallet_id, id);
CREATE INDEX wallet_grants_open ON wallet_grants (wallet_id)
    WHERE status IN ('scheduled', 'active') AND (status = 'scheduled' OR balance_minor > 0 OR every IS NOT NULL);
CREATE UNIQUE INDEX wallet_grants_by_invoice ON wallet_grants (invoice_id)
    WHERE invoice_id IS NOT NULL AND credit_note_id IS NULL;

-- `occurred_at` is the instant whose state it makes; `created_at`, when it was written.
CREATE TABLE wallet_transactions (
    id             text PRIMARY KEY,
    tenant_id      text NOT NULL,
    wallet_id      text NOT NULL REFERENCES wallets,
    type           text NOT NULL CHECK (type IN
                       ('grant', 'refill', 'expiry', 'void', 'invoice', 'invoice_void', 'overdraft')),
    invoice_id     text REFERENCES invoices,
    credit_note_id text REFERENCES credit_notes,
    amount_minor   bigint NOT NULL, -- what it changed of the wallet's balance
    occurred_at    timestamptz NOT NULL,
    created_at     timestamptz NOT NULL
);
CREATE INDEX wallet_transactions_by_wallet ON wallet_transactions (wallet_id, id);
CREATE UNIQUE INDEX wallet_transactions_by_invoice ON wallet_transactions (invoice_id, type)
    WHERE type IN ('invoice', 'invoice_void');

-- What is `balance` (of a grant) or `overdraft` is the customer's; against it stand where it came from and where it went.
CREATE TABLE wallet_entries (
    no             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id text NOT NULL REFERENCES wallet_transactions,
    wallet_id      text NOT NULL REFERENCES wallets,
    grant_id       text REFERENCES wallet_grants,
    account        text NOT NULL CHECK (account IN
                       ('balance', 'overdraft', 'payment', 'promotion', 'credit', 'invoice', 'expired')),
    amount_minor   bigint NOT NULL CHECK (amount_minor <> 0),
    CHECK (account NOT IN ('balance', 'payment', 'promotion', 'expired') OR grant_id IS NOT NULL)
);
CREATE INDEX wallet_entries_by_transaction ON wallet_entries (transaction_id);

-- A transaction comes whole, in one statement, and its entries add up to zero: over all, and for each grant. The sums
-- of grants and wallets follow from the entries here and nowhere else; their checks keep them from below zero.
CREATE FUNCTION post_wallet_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added GROUP BY transaction_id, grant_id HAVING sum(amount_minor) <> 0) THEN
        RAISE EXCEPTION 'entries of a transaction do not add up to zero' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    UPDATE wallet_grants AS g SET
        balance_minor = g.balance_minor + s.balance, burned_minor = g.burned_minor + s.burned,
        expired_minor = g.expired_minor + s.expired, granted_minor = g.granted_minor - s.source
    FROM (SELECT grant_id,
                 sum(CASE WHEN account = 'balance' THEN amount_minor ELSE 0 END) AS balance,
                 sum(CASE WHEN account IN ('invoice', 'overdraft') THEN amount_minor ELSE 0 END) AS burned,
                 sum(CASE WHEN account = 'expired' THEN amount_minor ELSE 0 END) AS expired,
                 sum(CASE WHEN account IN ('payment', 'promotion', 'credit') THEN amount_minor ELSE 0 END) AS source
          FROM added WHERE grant_id IS NOT NULL GROUP BY grant_id) AS s
    WHERE g.id = s.grant_id;
    UPDATE wallets AS w SET granted_minor = w.granted_minor + s.balance, overdraft_minor = w.overdraft_minor - s.overdraft
    FROM (SELECT wallet_id,
                 sum(CASE WHEN account = 'balance' THEN amount_minor ELSE 0 END) AS balance,
                 sum(CASE WHEN account = 'overdraft' THEN amount_minor ELSE 0 END) AS overdraft
          FROM added GROUP BY wallet_id) AS s
    WHERE w.id = s.wallet_id;
    RETURN NULL;
END $$;
CREATE TRIGGER wallet_entries_are_posted AFTER INSERT ON wallet_entries
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION post_wallet_entries();

CREATE FUNCTION keep_wallet_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger of wallets is append-only' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER wallet_entries_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet_entries
    FOR EACH STATEMENT EXECUTE FUNCTION keep_wallet_ledger();
CREATE TRIGGER wallet_transactions_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON wallet_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION keep_wallet_ledger();

-- An invoice that sells a top-up is of a kind of its own: no wallet pays it.
ALTER TABLE invoices DROP CONSTRAINT invoices_kind_check;
ALTER TABLE invoices ADD CONSTRAINT invoices_kind_check
    CHECK (kind IN ('subscription', 'closing', 'one_off', 'threshold', 'top_up'));

-- What credit of invoices there is becomes a grant a customer and currency, with every entry as a transaction. Ids are
-- made as everywhere: by time, and here by the number of the entry.
CREATE FUNCTION pg_temp.made_id(prefix text, at timestamptz, no bigint) RETURNS text LANGUAGE sql AS $$
    SELECT prefix || '_' || lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || '7' || lpad(to_hex(no % 4096), 3, '0') || '8' || substr(md5(prefix || no), 1, 15)
$$;
CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
    SELECT c.*, first_value(no) OVER w AS first_no, first_value(created_at) OVER w AS first_at
    FROM customer_credits c WINDOW w AS (PARTITION BY customer_id, currency ORDER BY no);
INSERT INTO wallets (id, tenant_id, customer_id, currency, name, is_opened, created_at)
    SELECT pg_temp.made_id('wal', first_at, first_no), tenant_id, customer_id, currency, currency, false, first_at
    FROM moved WHERE no = first_no;
INSERT INTO wallet_grants (id, tenant_id, wallet_id, kind, amount_minor, priority, effective_at, status, created_at)
    SELECT pg_temp.made_id('gra', first_at, first_no), tenant_id, pg_temp.made_id('wal', first_at, first_no), 'credit',
           sum(amount_minor) FILTER (WHERE amount_minor > 0 AND reason <> 'void'), 50, first_at, 'active', first_at
    FROM moved GROUP BY tenant_id, customer_id, currency, first_at, first_no;
INSERT INTO wallet_transactions
        (id, tenant_id, wallet_id, type, invoice_id, credit_note_id, amount_minor, occurred_at, created_at)
    SELECT pg_temp.made_id('wtx', created_at, no), tenant_id, pg_temp.made_id('wal', first_at, first_no),
           CASE WHEN reason = 'void' THEN 'invoice_void' WHEN amount_minor > 0 THEN 'grant' ELSE 'invoice' END,
           invoice_id, credit_note_id, amount_minor, created_at, created_at
    FROM moved ORDER BY no;
INSERT INTO wallet_entries (transaction_id, wallet_id, grant_id, account, amount_minor)
    SELECT pg_temp.made_id('wtx', created_at, no), pg_temp.made_id('wal', first_at, first_no),
           pg_temp.made_id('gra', first_at, first_no), side.account, side.sign * amount_minor
    FROM moved, LATERAL (VALUES ('balance', 1),
        (CASE WHEN amount_minor > 0 AND reason <> 'void' THEN 'credit' ELSE 'invoice' END, -1)) AS side (account, sign)
    ORDER BY no;
DROP TABLE customer_credits;
