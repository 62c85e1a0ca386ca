/** A card and a tab for the registry that ecr-catalog publishes; for the new frontend system. */
export { default } from './plugin';
