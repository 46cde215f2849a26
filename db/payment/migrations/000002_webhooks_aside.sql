-- Genuine webhooks that could not take effect, such as one whose value no column takes. Their provider was told that they
-- are taken in; they are tried again at next_time, and removed in the transaction in which they take effect.
CREATE TABLE IF NOT EXISTS webhooks_aside (
  provider VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  event_id VARBINARY(255) NOT NULL,
  body MEDIUMBLOB NOT NULL,
  -- Why it did not take effect when it came first, or was delivered again.
  failure VARCHAR(200) CHARACTER SET utf8mb4 NOT NULL,
  attempts INT NOT NULL DEFAULT 0,
  next_time DATETIME(3) NOT NULL,
  create_time DATETIME(3) NOT NULL,
  PRIMARY KEY (provider, event_id),
  KEY due (next_time)
) ENGINE=InnoDB;
