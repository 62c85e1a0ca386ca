/** The same card and tab for an app on Backstage's old frontend system. */
export { RegistryCard as EcrCatalogCard } from './RegistryCard';
export { RegistryContent as EcrCatalogContent } from './RegistryContent';
export { isContainerRegistry } from './registry';
