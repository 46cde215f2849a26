-- A second cursor beside that of the passes: up to which order each hold was looked at once, when its order came of age.
-- It only moves on, so that what an event would have told of a young order is learnt in time, however long a pass takes.
INSERT INTO recheck_cursor (id, order_id, due_time)
  SELECT 2, 0, NOW(3) FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM recheck_cursor WHERE id = 2);
