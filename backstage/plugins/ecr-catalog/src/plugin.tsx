import { createFrontendPlugin } from '@backstage/frontend-plugin-api';
import {
  EntityCardBlueprint,
  EntityContentBlueprint,
} from '@backstage/plugin-catalog-react/alpha';

import { isContainerRegistry } from './registry';

const card = EntityCardBlueprint.make({
  name: 'registry',
  params: {
    type: 'content',
    filter: isContainerRegistry,
    loader: async () => {
      const { RegistryCard } = await import('./RegistryCard');
      return <RegistryCard />;
    },
  },
});

const content = EntityContentBlueprint.make({
  name: 'repositories',
  params: {
    path: '/repositories',
    title: 'Repositories',
    filter: isContainerRegistry,
    loader: async () => {
      const { RegistryContent } = await import('./RegistryContent');
      return <RegistryContent />;
    },
  },
});

/** The card and the tab, for Backstage's new frontend system. */
export default createFrontendPlugin({
  pluginId: 'ecr-catalog',
  extensions: [card, content],
});
