-- Overdue orders whose payment has begun: their sessions are voided before they are closed. One row an order while that is
-- to be done, for all copies of the service: next_time is when it is tried next, and a copy that tries it moves that away,
-- so that no other does, and one does if it dies. Found from the index `due` of the orders; a row without its order is
-- removed.
-- processing: the bank has not decided on its payment, which can take days.
CREATE TABLE IF NOT EXISTS overdue_begun (
  order_id BIGINT NOT NULL,
  attempts INT NOT NULL DEFAULT 0,
  processing TINYINT NOT NULL DEFAULT 0,
  next_time DATETIME(3) NOT NULL,
  PRIMARY KEY (order_id),
  KEY due (next_time)
) ENGINE=InnoDB;
