-- One-off invoices redeem coupons too.
ALTER TABLE coupon_redemptions DROP CONSTRAINT coupon_redemptions_pkey;
ALTER TABLE coupon_redemptions ALTER COLUMN subscription_id DROP NOT NULL;
ALTER TABLE coupon_redemptions ADD COLUMN invoice_id text REFERENCES invoices;
ALTER TABLE coupon_redemptions ADD CHECK (num_nonnulls(subscription_id, invoice_id) = 1);
CREATE UNIQUE INDEX coupon_redemptions_by_subscription ON coupon_redemptions (coupon_id, subscription_id)
    WHERE subscription_id IS NOT NULL;
CREATE UNIQUE INDEX coupon_redemptions_by_invoice ON coupon_redemptions (invoice_id, coupon_id)
    WHERE invoice_id IS NOT NULL;
