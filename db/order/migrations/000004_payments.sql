-- payment_begun: a session with the provider may be open, so the order is closed only after ClosePayment.
-- refunded_minor: what went back to the buyer, in the order's currency.
-- due finds the PENDING orders whose time is over without reading the others.
ALTER TABLE orders_{{table}}
  ADD COLUMN payment_begun TINYINT NOT NULL DEFAULT 0,
  ADD COLUMN refunded_minor BIGINT NOT NULL DEFAULT 0,
  ADD KEY due (status, payment_begun, expire_time);
