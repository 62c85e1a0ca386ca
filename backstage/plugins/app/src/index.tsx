import '@backstage/ui/css/styles.css';

import { createApp } from '@backstage/frontend-defaults';
import catalogPlugin from '@backstage/plugin-catalog/alpha';
import ecrCatalogPlugin from 'backstage-plugin-ecr-catalog';
import { createRoot } from 'react-dom/client';

const app = createApp({ features: [catalogPlugin, ecrCatalogPlugin] });

createRoot(document.getElementById('root')!).render(app.createRoot());
