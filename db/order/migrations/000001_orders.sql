-- The orders of one order database. A statement that names {{table}} is run once per table (00, 01, …).
-- Every statement may run again: MySQL commits each of them by itself.

-- One row per order, and one per fence (status 8, ABORTED): a fence has user 0 and no request id.
-- request_id is binary because collations fold case or ignore trailing spaces.
-- The unique key is what makes one order per (user, request id) true when Redis has forgotten; NULLs do not collide.
-- user_orders gives pages without OFFSET.
CREATE TABLE IF NOT EXISTS orders_{{table}} (
  order_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  request_id VARBINARY(128) NULL,
  fingerprint BINARY(16) NULL,
  status TINYINT NOT NULL,
  close_reason TINYINT NOT NULL DEFAULT 0,
  version INT NOT NULL DEFAULT 1,
  total_minor BIGINT NOT NULL DEFAULT 0,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  payment_id BIGINT NOT NULL DEFAULT 0,
  create_time DATETIME(3) NOT NULL,
  expire_time DATETIME(3) NOT NULL,
  update_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id),
  UNIQUE KEY user_request (user_id, request_id),
  KEY user_orders (user_id, order_id)
) ENGINE=InnoDB;

-- What was ordered, at the price of that moment, in the order's currency.
CREATE TABLE IF NOT EXISTS order_items_{{table}} (
  order_id BIGINT NOT NULL,
  sku_id BIGINT NOT NULL,
  quantity INT NOT NULL,
  unit_price_minor BIGINT NOT NULL,
  PRIMARY KEY (order_id, sku_id)
) ENGINE=InnoDB;

-- Each transition after the creation; the creation itself is in the order's row.
CREATE TABLE IF NOT EXISTS order_history_{{table}} (
  order_id BIGINT NOT NULL,
  version INT NOT NULL,
  from_status TINYINT NOT NULL,
  to_status TINYINT NOT NULL,
  close_reason TINYINT NOT NULL DEFAULT 0,
  create_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id, version)
) ENGINE=InnoDB;

-- Events of committed changes that Kafka may not have yet: one row per transaction, its events in one payload.
-- owner and owned_until are a relay's claim.
CREATE TABLE IF NOT EXISTS outbox (
  id BIGINT NOT NULL AUTO_INCREMENT,
  payload MEDIUMBLOB NOT NULL,
  create_time DATETIME(3) NOT NULL,
  owner VARBINARY(64) NULL,
  owned_until DATETIME(3) NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB;
