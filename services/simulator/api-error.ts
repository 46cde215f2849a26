/** An error that a caller of the API is meant to see. */
export class ApiError extends Error {
  readonly status: number;
  /** One word for programs. */
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
  }
}
