-- Whether a line gives back what another has charged, whatever it comes to: it may round to nothing. NULL on lines that
-- were written before: theirs is told by their amount.
ALTER TABLE invoice_lines ADD COLUMN is_credit boolean;
