/** The only part of the library that pages use, loaded by itself so that the build drops the rest. */
export { diffLines } from "diff";
