-- Exports page through a tenant's invoices in the order in which they became final, which never changes.
CREATE INDEX invoices_by_finalization ON invoices (tenant_id, finalized_at, id) WHERE finalized_at IS NOT NULL;
