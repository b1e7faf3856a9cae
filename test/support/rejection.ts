import { AssertionError } from "chai";

/** What an asynchronous call rejects with, or throws at once. Fails if it does neither. */
export async function rejection(call: () => unknown): Promise<Error> {
  try {
    await call();
  } catch (error) {
    if (error instanceof Error) return error;
    throw new AssertionError(`rejected with ${error}, which is no Error`);
  }
  throw new AssertionError(`no error from ${call}`);
}
