/**
 * The API's enums as the words that KMS uses, which is what callers write and read.
 *
 * @module
 */
import type { DescEnum, EnumShape } from "@bufbuild/protobuf";

import { ArgumentError } from "./errors.js";

/** The number of a word; the unspecified one where there is none. @throws {@link ArgumentError} if nobody knows it. */
export function numberOf<Desc extends DescEnum>(schema: Desc, word: string | undefined): EnumShape<Desc> {
  const value = schema.values.find(({ localName, number }) =>
    word === undefined ? number === 0 : number !== 0 && localName === word,
  );
  if (value === undefined) {
    throw new ArgumentError(`there is no ${schema.name} ${JSON.stringify(word)}`);
  }
  return value.number as EnumShape<Desc>;
}

/** The word of a number, or the number itself where it is newer than this library. */
export function wordOf(schema: DescEnum, number: number): string {
  return schema.value[number]?.localName ?? String(number);
}
