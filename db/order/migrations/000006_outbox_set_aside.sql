-- Events that left the outbox without having been published, so that they stop nothing but themselves.
-- next_time NULL: Kafka refuses them for good, or the row cannot be read; they wait for an operator (./sluice dlq).
-- next_time set: their partition took nothing while others did; they are tried again then, and a try moves it on.
-- outbox_id names the outbox row they were in, or the first of several. create_time is that row's.
CREATE TABLE IF NOT EXISTS outbox_set_aside (
  id BIGINT NOT NULL AUTO_INCREMENT,
  outbox_id BIGINT NOT NULL,
  payload MEDIUMBLOB NOT NULL,
  create_time DATETIME(3) NOT NULL,
  reason VARCHAR(500) CHARACTER SET utf8mb4 NOT NULL,
  attempts INT NOT NULL DEFAULT 0,
  next_time DATETIME(3) NULL,
  set_aside_time DATETIME(3) NOT NULL,
  PRIMARY KEY (id),
  KEY due (next_time)
) ENGINE=InnoDB;
