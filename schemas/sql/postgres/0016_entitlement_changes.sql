-- Whoever holds a copy of entitlements in memory listens here: each transaction tells what it changed of them when it
-- commits, whichever way it came. `c` a customer's (and those of customers it pays for), `f` a feature, `m` a meter.
CREATE FUNCTION tell_entitlement_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed jsonb := to_jsonb(coalesce(NEW, OLD));
BEGIN
    PERFORM pg_notify('entitlement_changes', TG_ARGV[0] || ' ' || (changed ->> TG_ARGV[1]));
    RETURN NULL;
END
$$;

CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON entitlements
    FOR EACH ROW EXECUTE FUNCTION tell_entitlement_change('c', 'customer_id');

-- What entitlements take of their subscription and customer. Billing writes subscriptions all the time: only these
-- columns are told.
CREATE TRIGGER told AFTER UPDATE ON subscriptions
    FOR EACH ROW WHEN (
        (OLD.status, OLD.cancel_at, OLD.trial_end_at, OLD.trial_end_behavior, OLD.timezone, OLD.alignment,
         OLD.billing_anchor, OLD.blocked_at) IS DISTINCT FROM
        (NEW.status, NEW.cancel_at, NEW.trial_end_at, NEW.trial_end_behavior, NEW.timezone, NEW.alignment,
         NEW.billing_anchor, NEW.blocked_at))
    EXECUTE FUNCTION tell_entitlement_change('c', 'customer_id');

CREATE TRIGGER told AFTER UPDATE ON customers
    FOR EACH ROW WHEN (
        (OLD.external_id, OLD.parent_id, OLD.has_payment_method, OLD.test_clock_id) IS DISTINCT FROM
        (NEW.external_id, NEW.parent_id, NEW.has_payment_method, NEW.test_clock_id))
    EXECUTE FUNCTION tell_entitlement_change('c', 'id');

CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON features
    FOR EACH ROW EXECUTE FUNCTION tell_entitlement_change('f', 'id');

CREATE TRIGGER told_of_new AFTER INSERT ON meters FOR EACH ROW EXECUTE FUNCTION tell_entitlement_change('m', 'no');
CREATE TRIGGER told AFTER UPDATE ON meters
    FOR EACH ROW WHEN (OLD.revision IS DISTINCT FROM NEW.revision)
    EXECUTE FUNCTION tell_entitlement_change('m', 'no');
