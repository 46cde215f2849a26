/** The image of the last accepted contract; replaced on purpose by `npm run gen -- --accept-contract`. */
export const acceptedContract = 'proto/accepted.binpb';

/** What the migrations lead to; written by `npm run gen`. */
export const schemaFile = 'db/schema.sql';
