-- Payments, their refunds, and the webhooks that told about them. The payment service alone writes here.

-- One row per attempt to pay an order. status and settlement are the numbers of the proto.
-- Ids are made by the service (time and chance), never counted: they are also the provider's idempotency keys, and a
-- database made anew must not repeat those that a provider remembers.
-- provider_reference is NULL until the provider's answer is known: NULLs do not collide.
-- session_over: the session can surely not be paid any more, although its status may be FAILED.
-- next_time is when the row wants attention again (settlement 0: ask the provider; 1: tell order); NULL: never. due finds
-- those rows.
CREATE TABLE IF NOT EXISTS payments (
  payment_id BIGINT NOT NULL,
  order_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  request_id VARBINARY(128) NOT NULL,
  provider VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  provider_reference VARBINARY(255) NULL,
  payment_url VARCHAR(2048) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  status TINYINT NOT NULL,
  settlement TINYINT NOT NULL DEFAULT 0,
  amount_minor BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  captured_minor BIGINT NULL,
  captured_currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NULL,
  failure VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  session_over TINYINT NOT NULL DEFAULT 0,
  expire_time DATETIME(3) NOT NULL,
  attempts INT NOT NULL DEFAULT 0,
  next_time DATETIME(3) NULL,
  create_time DATETIME(3) NOT NULL,
  update_time DATETIME(3) NOT NULL,
  PRIMARY KEY (payment_id),
  UNIQUE KEY order_request (order_id, request_id),
  UNIQUE KEY session (provider, provider_reference),
  KEY due (settlement, next_time)
) ENGINE=InnoDB;

-- Money that goes back, a durable work item. (payment_id, request_id) makes each refund happen once: operators' requests
-- begin with "op:", those that Sluice makes itself are "surplus" and "cancel".
CREATE TABLE IF NOT EXISTS refunds (
  refund_id BIGINT NOT NULL,
  payment_id BIGINT NOT NULL,
  request_id VARBINARY(132) NOT NULL,
  amount_minor BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  -- Whether all that was left was asked for, without naming an amount.
  whole TINYINT NOT NULL,
  status TINYINT NOT NULL,
  reason VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  restock TINYINT NOT NULL,
  provider_reference VARBINARY(255) NULL,
  failure VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  -- How much of the refund order knows: 0 nothing, 1 that it began, 2 all that it is to know.
  told TINYINT NOT NULL DEFAULT 0,
  attempts INT NOT NULL DEFAULT 0,
  next_time DATETIME(3) NULL,
  create_time DATETIME(3) NOT NULL,
  update_time DATETIME(3) NOT NULL,
  PRIMARY KEY (refund_id),
  UNIQUE KEY payment_request (payment_id, request_id),
  KEY due (next_time)
) ENGINE=InnoDB;

-- Every webhook that was signed, once, in the transaction of its effect. Kept whatever it said.
CREATE TABLE IF NOT EXISTS webhook_inbox (
  provider VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  event_id VARBINARY(255) NOT NULL,
  event_type VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  payment_id BIGINT NULL,
  -- What it came to, such as applied, ignored, wrong_amount, unknown_type.
  effect VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  body MEDIUMBLOB NOT NULL,
  create_time DATETIME(3) NOT NULL,
  PRIMARY KEY (provider, event_id),
  KEY by_payment (payment_id),
  KEY by_time (create_time)
) ENGINE=InnoDB;

-- Orders that are being closed: a payment whose session is not open yet must not open one any more. ClosePayment commits the
-- row before it looks for payments, CreatePayment looks for the row after it has committed its payment; one sees the other.
CREATE TABLE IF NOT EXISTS closed_orders (
  order_id BIGINT NOT NULL,
  create_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id),
  KEY by_time (create_time)
) ENGINE=InnoDB;
