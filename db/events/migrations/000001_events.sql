-- What the events process makes of order events: statistics of users and mails to send.

-- The newest version of each order that the statistics contain: an event counts by its difference to this row,
-- so that a repeated or older one counts nothing. user_statistics changes in the same transaction.
CREATE TABLE IF NOT EXISTS counted_orders (
  order_id BIGINT NOT NULL,
  version INT NOT NULL,
  user_id BIGINT NOT NULL,
  status TINYINT NOT NULL,
  total_minor BIGINT NOT NULL,
  refunded_minor BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  update_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id),
  KEY by_time (update_time)
) ENGINE=InnoDB;

-- Figures of one user in one currency. Counts are of orders by what they are now.
CREATE TABLE IF NOT EXISTS user_statistics (
  user_id BIGINT NOT NULL,
  currency CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  orders BIGINT NOT NULL,
  paid BIGINT NOT NULL,
  cancelled BIGINT NOT NULL,
  refunded BIGINT NOT NULL,
  paid_minor BIGINT NOT NULL,
  refunded_minor BIGINT NOT NULL,
  update_time DATETIME(3) NOT NULL,
  PRIMARY KEY (user_id, currency)
) ENGINE=InnoDB;

-- Confirmations to send: one per paid order, kept until it was sent and for a while after. next_time is when it is tried
-- (again); NULL: sent, or given up after attempts. owner and owned_until are a sender's claim.
CREATE TABLE IF NOT EXISTS confirmation_mails (
  order_id BIGINT NOT NULL,
  user_id BIGINT NOT NULL,
  payload BLOB NOT NULL,
  attempts INT NOT NULL DEFAULT 0,
  failure VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL DEFAULT '',
  next_time DATETIME(3) NULL,
  owner VARBINARY(64) NULL,
  sent_time DATETIME(3) NULL,
  create_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id),
  KEY due (next_time),
  KEY by_time (create_time)
) ENGINE=InnoDB;
